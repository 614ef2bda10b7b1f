// Package provider knows the smarthosts that people have: for each provider its hosts, how they are reached, what kind of
// username and password they want, how much they let an account send, and what that knowledge rests on.
//
// All of it is in one file, providers.toml, which is part of the program; a test holds every row to its form. A row says
// only what a source says: a limit that nobody states is absent, and means that it is not known, not that there is none.
// Nothing here opens a connection.
package provider
