package queue

import "time"

// backoff returns how long a recipient waits after its n-th failed attempt (n from 1): retryMin doubled each time up
// to retryMax, spread by up to a fifth either way so that a backlog does not come back as one. jitter is from 0 to 1;
// the result stays between retryMin and retryMax (RFC 5321 section 4.5.4.1).
func backoff(n int, retryMin, retryMax time.Duration, jitter float64) time.Duration {
	d := retryMin
	for i := 1; i < n && d < retryMax; i++ {
		d *= 2
	}
	d = min(d, retryMax)
	d += time.Duration(float64(d) * (jitter - 0.5) * 0.4)
	return max(retryMin, min(d, retryMax))
}
