"""How well a model does: measures on labelled rows, how sure they are, and whether they got worse."""
