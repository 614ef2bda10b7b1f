// Package metrics shows the operator's status to Prometheus: GET /metrics over plain HTTP, in its text format.
//
// Whoever can connect can read: there is no login and no TLS, so that the address is best one of loopback. What is shown is
// made of numbers, the names of routes, the addresses of their hosts, and the states that hosts may be in. None of the
// status's words is: they quote hosts, and name senders, recipients and accounts. That the name of a route is not somebody's
// address is for the configuration to see to.
//
// # When things fail
//
// A client that sends or reads too slowly is cut off, each connection serves one request, and there are maxConnections at
// most; further ones wait. A request that is answered reads the status as it is then; when it cannot be rendered the answer
// is 500 and the log says why. Nothing here keeps mail from flowing.
package metrics
