"""The ways an exchange is taken: a proxy in front of the model server, a PythonModel inside it."""
