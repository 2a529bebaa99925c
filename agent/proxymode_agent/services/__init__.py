"""Pure: Kubernetes objects to the Service state that every dataplane programs. No I/O."""
