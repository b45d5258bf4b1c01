"""The admin port of the proxy: metrics, health, the ledger, the servers that requests go to, and labels."""
