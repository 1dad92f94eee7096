"""What goes between host and writer: the queue, the batches in it, the shared numbers and the messages."""
