package queue

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// Traffic counts what has gone through the queue since it was opened.
type Traffic struct {
	Received int64          `json:"received"` // messages of clients that got their 250
	Routes   []RouteTraffic `json:"routes"`   // in order of names; of those that have settled something
}

// RouteTraffic counts the recipients whose outcome by one route is on disk, those of reports too. An attempt that no
// host took part in settles nothing.
type RouteTraffic struct {
	Route     string `json:"route"`
	Delivered int64  `json:"delivered"`
	Deferred  int64  `json:"deferred"` // once for each attempt that was refused for the time being
	Failed    int64  `json:"failed"`   // refused for good, or given up
}

// traffic is what Traffic is read from. The routes come and go with the configuration; there are as many as it has ever
// named since the start.
type traffic struct {
	received atomic.Int64
	mu       sync.Mutex
	routes   map[string]*RouteTraffic
}

// settled counts what an attempt came to.
func (t *traffic) settled(route string, v *verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.routes[route]
	if r == nil {
		if t.routes == nil {
			t.routes = make(map[string]*RouteTraffic)
		}
		r = &RouteTraffic{Route: route}
		t.routes[route] = r
	}
	r.Delivered += int64(len(v.delivered))
	r.Deferred += int64(len(v.deferred))
	r.Failed += int64(len(v.failed))
}

// Traffic returns what has gone through the queue since it was opened.
func (q *Queue) Traffic() Traffic {
	q.traffic.mu.Lock()
	defer q.traffic.mu.Unlock()
	t := Traffic{Received: q.traffic.received.Load(), Routes: make([]RouteTraffic, 0, len(q.traffic.routes))}
	for _, r := range q.traffic.routes {
		t.Routes = append(t.Routes, *r)
	}
	slices.SortFunc(t.Routes, func(a, b RouteTraffic) int { return cmp.Compare(a.Route, b.Route) })
	return t
}
