"""What a change of mode does to traffic, kube-proxy's way and ours; and what a hand-over of many connections costs."""
