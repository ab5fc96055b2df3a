"""Write a model's folder: weights of any data type, model.json and CARD.md."""
