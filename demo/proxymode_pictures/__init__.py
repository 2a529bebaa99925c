"""Terminal pictures for README and docs: a real operator and API server, simulated agents, the plugin's own drawing."""
