"""Write a model's folder: weights of a chosen data type, model.json and CARD.md."""
