package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"relayd/queue"
)

const (
	maxRequest = 4 << 20 // octets of a request's body: more ids than a command line can hold
	chunk      = 64 << 10
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/queue", s.list)
	mux.HandleFunc("GET /v1/queue/{id}", s.show)
	mux.HandleFunc("GET /v1/queue/{id}/body", s.body)
	mux.HandleFunc("GET /v1/queue/{id}/export", s.export)
	mux.HandleFunc("POST /v1/queue/actions", s.act)
	mux.HandleFunc("/", s.unknown)
	return s.guarded(onlyOperators(mux))
}

// guarded turns a panic into a 500 and a log line. http.ErrAbortHandler is how a handler breaks off an answer that it
// has begun; net/http knows it.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			s.opt.Log.Error("a control request failed inside", "method", r.Method, "path", r.URL.Path,
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			s.extend(w)
			writeError(w, http.StatusInternalServerError, "relayd failed inside while answering; its log has the details", nil)
		}()
		next.ServeHTTP(w, r)
	})
}

func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	status, words := http.StatusNotFound, "there is no such endpoint; is relayctl of another version than relayd?"
	switch r.URL.Path {
	case "/v1/status", "/v1/queue", "/v1/queue/actions":
		status, words = http.StatusMethodNotAllowed, r.Method+" is not how this endpoint is used"
	}
	writeError(w, status, words, nil)
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.Status()) }

// Status returns what GET /v1/status answers, for others in the daemon who show it. It answers within statusPatience,
// whatever the disk does.
func (s *Server) Status() Status {
	st := Status{Running: true, Version: s.opt.Version, Started: s.opt.Started}
	if s.opt.Hostname != nil {
		st.Hostname = s.opt.Hostname()
	}
	st.Late = s.parts.fill(&st)
	st.Judge(time.Now())
	return st
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	limit := MaxPage
	if word := r.URL.Query().Get("limit"); word != "" {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			words := fmt.Sprintf("limit is a number of messages from 1 to %d, not %q", MaxPage, word)
			writeError(w, http.StatusBadRequest, words, nil)
			return
		}
		limit = min(n, MaxPage)
	}
	after := r.URL.Query().Get("after")
	if _, err := queue.ParseID(after); after != "" && err != nil {
		writeError(w, http.StatusBadRequest, fmt.Sprintf("after is a queue id, not %q: %v", after, err), nil)
		return
	}
	switch state := r.URL.Query().Get("state"); state {
	case "":
	case queue.StateQuarantined:
		entries, next, err := s.opt.Queue.Quarantined(after, limit)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.answer(w, Page{Entries: append([]queue.Entry{}, entries...), Next: next})
		return
	default:
		writeError(w, http.StatusBadRequest, fmt.Sprintf("state is quarantined or left out, not %q", state), nil)
		return
	}
	entries, next, err := s.opt.Queue.List(after, limit)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, Page{Entries: append([]queue.Entry{}, entries...), Next: next})
}

func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	d, err := s.opt.Queue.Show(r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, d)
}

func (s *Server) body(w http.ResponseWriter, r *http.Request) {
	body, err := s.opt.Queue.Body(r.PathValue("id"))
	s.send(w, r, "message/rfc822", body, err)
}

func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	message, err := s.opt.Queue.Export(r.PathValue("id"))
	s.send(w, r, "application/octet-stream", message, err)
}

// send answers with what body has, or with the error in its place.
func (s *Server) send(w http.ResponseWriter, r *http.Request, contentType string, body io.ReadCloser, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer body.Close()
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := s.stream(w, body); err != nil {
		s.opt.Log.Warn("a message's content could not be sent to an operator", "id", r.PathValue("id"), "error", err)
		panic(http.ErrAbortHandler) // the one way in net/http to end an answer so that it shows
	}
}

// stream copies src to the client, who may take s.opt.Stall over each part but as long as it wants over all.
func (s *Server) stream(w http.ResponseWriter, src io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if err := s.extend(w); err != nil {
				return err
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	var req Request
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			writeError(w, http.StatusRequestEntityTooLarge, "the request is over 4 MiB; name fewer messages at once", nil)
			return
		}
		writeError(w, http.StatusBadRequest, "the request is not what this endpoint takes: "+err.Error(), nil)
		return
	}
	action, err := queue.ParseAction(string(req.Action))
	switch {
	case err != nil:
		writeError(w, http.StatusBadRequest, err.Error(), nil)
	case req.All == (len(req.IDs) > 0):
		writeError(w, http.StatusBadRequest, "name messages in ids, or set all: one of the two", nil)
	default:
		s.apply(w, r, action, req)
	}
}

func (s *Server) apply(w http.ResponseWriter, r *http.Request, action queue.Action, req Request) {
	var applied queue.Applied
	var err error
	if req.All {
		applied, err = s.opt.Queue.ApplyAll(action)
	} else {
		applied, err = s.opt.Queue.Apply(action, req.IDs)
	}
	res := Result{Action: action, Done: len(applied.Done), Asked: applied.Asked}
	if !req.All {
		res.IDs = applied.Done
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if action == queue.ActionRetry && s.opt.Probe != nil {
		s.opt.Probe()
	}
	s.opt.Log.Info("operator action", "action", string(action), "all", req.All, "done", res.Done, "ids", res.IDs,
		"asked", res.Asked)
	s.answer(w, res)
}

// fail answers with the status code that fits err.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.extend(w)
	if missing, ok := errors.AsType[*queue.NotFoundError](err); ok {
		writeError(w, http.StatusNotFound, missing.Error(), missing.IDs)
		return
	}
	switch {
	case errors.Is(err, queue.ErrNotFound):
		id := r.PathValue("id")
		writeError(w, http.StatusNotFound, (&queue.NotFoundError{IDs: []string{id}}).Error(), []string{id})
	case errors.Is(err, queue.ErrQuarantined):
		writeError(w, http.StatusConflict, err.Error(), nil)
	case errors.Is(err, queue.ErrClosed):
		writeError(w, http.StatusServiceUnavailable, "relayd is stopping", nil)
	default:
		s.opt.Log.Error("a control request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		writeError(w, http.StatusInternalServerError, err.Error(), nil)
	}
}

// answer sends v with 200. The whole of it is encoded first, so that a client never sees half an object with a 200.
func (s *Server) answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.opt.Log.Error("a control answer cannot be encoded", "error", err)
		writeError(w, http.StatusInternalServerError, err.Error(), nil)
		return
	}
	s.extend(w)
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(b, '\n')) // when this fails, nobody is left to tell
}

// extend gives the client its time from now on: what the queue took for its work is not the client's fault. An error
// means that the connection is gone, which the write that follows meets too.
func (s *Server) extend(w http.ResponseWriter) error {
	return http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.opt.Stall))
}

func writeError(w http.ResponseWriter, status int, words string, ids []string) {
	b, err := json.Marshal(errorBody{Error: words, IDs: ids})
	if err != nil {
		b = []byte(`{"error":"the error cannot be told"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}
