socat -u UNIX-LISTEN:/tmp/events.sock,fork,max-children=1,mode=0600 OPEN:/tmp/events.ndjson,creat,append
