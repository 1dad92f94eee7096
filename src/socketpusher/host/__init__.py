"""The host's side: takes events in, keeps them until they are settled, and runs the writer."""
