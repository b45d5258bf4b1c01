"""The report on a model: a page that stands by itself, and a small one that goes to MLflow."""
