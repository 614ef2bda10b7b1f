// Package config turns relayd's TOML file into validated values that nothing changes afterwards. It is the only
// package that knows the names of the file's keys.
//
// Load reports everything that is wrong with a file in one go: the error is a [Faults], one [Fault] a line, each with
// the file, the line, the key, what is wrong and what to write instead. A file with a fault yields no Config at all,
// so that a reload of a bad file changes nothing. What is allowed but should worry somebody (a password that other
// users can read, a certificate that has expired) comes back as [Warning], to be logged at each start.
//
// A key that is not known is a fault, so is a key that would have no effect where it stands: who misspells
// trusted_networks or gives a certificate to a listener without TLS is told, and not left with a relay that does
// something else than its file says.
//
// Load reads the file, the certificates, keys and passwords that it names, and the environment variables that
// password_env names. It resolves no names, opens no connection, creates nothing and logs nothing. The secret of a
// smarthost is in no fault, no warning and no description; [Secret] masks itself wherever it is printed.
package config
