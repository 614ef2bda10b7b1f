package smarthost

import "time"

// A host that answers each command just before its timeout, or reads a body by the octet, breaks no single timeout, and
// could so hold a connection, and the delivery that waits for it, for days. So the opening of a session and each
// transaction have a time in all, too, that grows with the work that gets done. It ends where the final dot begins: who
// cuts a host off there makes a duplicate.
const (
	// openPatience is for all from the greeting to the login.
	openPatience = 15 * time.Minute
	// transactionPatience is for the commands of a transaction; recipientPatience is added for each recipient.
	transactionPatience = 15 * time.Minute
	recipientPatience   = 10 * time.Second
	// leastRate is how many octets of a body earn another second. It is Postfix's smtp_min_data_rate.
	leastRate = 500
)

// allow gives the work on c a time in all, from now; 0 is for as long as it takes.
func (c *conn) allow(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = time.Time{}
	if d > 0 {
		c.due = time.Now().Add(d)
	}
}

// earn adds to that time for n octets that the host is given.
func (c *conn) earn(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.due.IsZero() {
		c.due = c.due.Add(time.Duration(n) * time.Second / leastRate)
	}
}
