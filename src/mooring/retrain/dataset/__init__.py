"""The data that a model is trained anew on, and those that are held out for the gate."""
