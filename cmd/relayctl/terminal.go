package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
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

// longestLine bounds an answer, in octets. Addresses with a provider's code in them have a thousand and more.
const longestLine = 16 << 10

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
		if err != nil || len(line) > longestLine {
			return string(line), err
		}
	}
}

// reply is what was typed.
type reply struct {
	text string
	err  error
}

// await returns what read reads, or the error of ctx when it ends before. A read from a terminal cannot be called off; it
// goes on until the process ends.
func await(ctx context.Context, read func() (string, error)) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	replies := make(chan reply, 1)
	go func() {
		text, err := read()
		replies <- reply{text, err}
	}()
	select {
	case r := <-replies:
		return r.text, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// ask asks, and returns the answer without the spaces around it. The end of the input and Ctrl-C are errors.
func (a *app) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.out, question)
	answer, err := await(ctx, func() (string, error) { return readLine(a.in) })
	if err != nil {
		fmt.Fprintln(a.out)
		if errors.Is(err, io.EOF) {
			err = errors.New("the input ended before the answer")
		}
		return "", err
	}
	return strings.TrimSpace(answer), nil
}

// askHidden asks for what must not be seen while it is typed, and returns it as it is. Whatever happens, the terminal
// shows again what is typed after it.
func (a *app) askHidden(ctx context.Context, question string) (string, error) {
	f, ok := a.in.(*os.File)
	if !ok {
		return "", errors.New("standard input is no terminal")
	}
	fd := int(f.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("the terminal cannot be asked not to show the password: %w", err)
	}
	fmt.Fprint(a.out, question)
	defer fmt.Fprintln(a.out)
	answer, err := await(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	if ctx.Err() != nil {
		term.Restore(fd, state) // the read goes on, and would leave it dark
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the input ended before the answer")
	}
	return answer, err
}
