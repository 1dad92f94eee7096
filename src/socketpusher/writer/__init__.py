"""The writer process: it owns the Unix socket and keeps whatever happens there away from the host.

`main` is what is run and `process` its way to the loop; `loop` is what it does, `backlog` decides what is written,
kept and dropped, `connection` is the socket, `preface` is what a connection begins with.
"""
