"""The writer process: it owns the Unix socket, so that nothing that happens there affects the host.

`main` is the script, and `process` sets the process up. `loop` does the work, `backlog` decides what is written, kept
and dropped, `connection` is the socket, `preface` makes the first lines of a connection, `spool` is the disk, and
`session` combines these for the lines of one pusher.
"""
