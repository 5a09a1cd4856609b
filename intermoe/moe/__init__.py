"""The mixture-of-experts block: pool, routers, selection, experts."""
