package main

import (
	"errors"
	"fmt"

	"relayd/queue"
)

// offline returns the data_dir for a command that works on the store itself, for which the daemon must not be running. back
// is that of enter.
func (a *app) offline(back bool) (string, error) {
	at, err := a.places()
	if err != nil {
		return "", err
	}
	if at.dataDir == "" {
		return "", errors.New("--socket alone does not say where the queue is; say --config FILE")
	}
	return at.dataDir, a.enter(at, back)
}

// stopFirst adds to an error that the daemon is running what to do about it.
func stopFirst(err error) error {
	if errors.Is(err, queue.ErrLocked) {
		return fmt.Errorf(`%w; this works on the files of a relayd that is not running: stop it with "systemctl stop relayd", and start it afterwards`, err)
	}
	return err
}
