// Package control is the operator's API of the daemon: HTTP and JSON on a unix socket, the server that the daemon
// runs and the client that relayctl and the dashboard use. Both sides share the types, so that what one prints is what
// the other knows.
//
// # Who may connect
//
// The socket has mode 0600 from the moment it exists, and on Linux each peer's credentials are looked at as well:
// root and the daemon's own user are served, anybody else gets 403. There is no other authentication.
//
// # Requests
//
//	GET  /v1/status               version, start, queue counts and traffic, routes with health and the pace of the
//	                              account (its limits, what is used, what waits, when that is gone), problems
//	GET  /v1/queue?after=&limit=  a page of the queue in order of ids: those greater than after, at most limit
//	                              (1000 at most, and when it is left out): {"entries": [...], "next": ID}. next is
//	                              left out on the last page; otherwise it is the next request's after
//	GET  /v1/queue/{id}           one message: envelope, origin, recipients, events
//	GET  /v1/queue/{id}/body      its content as message/rfc822, as it will be sent, before dot-stuffing
//	GET  /v1/queue/{id}/export    what the queue knows of it, as a line of JSON, and then its content: what
//	                              "relayctl queue export" writes to two files
//	POST /v1/queue/actions        {"action": "hold|release|retry|reroute|delete", "ids": [...]} or {"action": ..., "all": true};
//	                              answers {"action": ..., "done": N, "ids": [...], "asked": [...]}, without ids for
//	                              all; asked are those that are being delivered, whose "asked" in /v1/queue/{id} names
//	                              the action until it is done
//
// Sizes are in octets, times are RFC 3339.
//
// # When things fail
//
// Every error is an object {"error": "words", "ids": [...]} with the status code that fits: 400 for a request that
// makes no sense, 403 for the wrong user, 404 for an id that is not known (with the ids; nothing has been done then, to
// none of the request's messages), 405 for the wrong method, 413 for a body over 4 MiB, 500 when the store fails, and 503
// while the queue is closing. A handler that panics answers 500 and is logged; it takes nothing else down. A client that
// sends or reads too slowly is cut off. When a body breaks off in the middle, the connection ends without the final
// chunk, which the client reports as an error: half a message is never taken for a whole one.
//
// The socket of a daemon that died is replaced, but only after a connection to it has been refused. A socket that answers
// is left alone and Start fails with ErrInUse.
package control
