"""What a network has to beat: logistic regressions on features made by hand."""
