"""The writer process: it owns the Unix socket and keeps whatever happens there away from the host.

`process` starts it, `loop` is what it does, `backlog` decides what is written, kept and dropped, `inlet` and
`connection` are its two ends, `handshake` is what a connection begins with.
"""
