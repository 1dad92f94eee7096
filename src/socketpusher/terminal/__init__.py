"""For people: `socketpusher watch`, and what it draws."""
