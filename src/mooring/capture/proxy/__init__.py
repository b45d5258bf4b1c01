"""The proxy: `client` talks to clients, `upstream` to the model server, a `request` joins the two."""
