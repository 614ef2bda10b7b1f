package main

import (
	"io"
	"os"
)

// terminal is what is known of the terminal behind a stream.
type terminal struct{ columns int }

// terminalOf returns the terminal that v writes to or reads from; ok is false when it is anything else, such as a file
// or a pipe.
func terminalOf(v any) (t terminal, ok bool) {
	f, isFile := v.(*os.File)
	if !isFile {
		return terminal{}, false
	}
	columns, ok := columnsOf(f)
	if columns <= 0 {
		columns = 80
	}
	return terminal{columns: columns}, ok
}

func isTerminal(v any) bool {
	_, ok := terminalOf(v)
	return ok
}

// readLine reads up to a line feed and no further, since what follows belongs to somebody else.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		n, err := r.Read(b)
		if n > 0 {
			if b[0] == '\n' {
				return string(line), nil
			}
			line = append(line, b[0])
		}
		if err != nil || len(line) > 1000 {
			return string(line), err
		}
	}
}
