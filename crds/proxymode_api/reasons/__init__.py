"""What operator and agent say in one word, and a page on each: `codes` are the words, `explain` finds the page."""
