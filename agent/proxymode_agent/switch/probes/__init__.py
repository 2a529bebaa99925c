"""Whether Services answer, tried from the node itself: what answered in the old mode must answer in the new one."""
