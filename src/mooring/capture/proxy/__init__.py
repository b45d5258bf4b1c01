"""The proxy: `downstream` talks to clients, `upstream` to the model server, a `flow` joins the two."""
