"""What host and writer share: the queue, the batches in it, the ledger, the journal and the messages."""
