"""The kernel's side: what programs Services. One package a mode; nothing here knows Kubernetes objects."""
