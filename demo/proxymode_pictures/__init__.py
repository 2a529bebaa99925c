"""Terminal pictures for README and docs, of a run of the demo: real kernels, real traffic, the plugin's own drawing."""
