"""The other end of the socket: what reads the lines."""
