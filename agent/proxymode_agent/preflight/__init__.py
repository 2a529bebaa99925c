"""Can this node run a mode? Facts are read from the node (`facts`), judged by pure functions (`checks`)."""
