nc -dklU /tmp/events.sock | jq --unbuffered -r 'select(.type == "unit.failed") | "\(.unit): \(.error)"'
