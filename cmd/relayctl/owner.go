package main

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"relayd/internal/owner"
)

// enter makes relayctl the user that the queue's folder belongs to, when root runs it: that user can put a link or a pipe
// anywhere in it. back says that the command has to read or write for root, too; see folder.
func (a *app) enter(at places, back bool) (err error) {
	for _, path := range []string{at.dataDir, at.socket} {
		if path == "" || a.owner != nil {
			continue
		}
		if a.owner, err = owner.Of(path); err != nil {
			return err
		}
	}
	if back {
		return a.owner.Enter()
	}
	return a.owner.Become()
}

// folder is one that was named on the command line. Root reads and writes it as root, unless the user that relayctl has
// become can exchange it.
type folder struct {
	root  *os.Root
	owner *owner.User // not nil when root works in it
}

// folder opens the folder path, and makes it first with create.
func (a *app) folder(path string, create bool) (f *folder, err error) {
	f = &folder{owner: a.owner}
	var reached bool
	err = a.owner.Aside(func() (err error) {
		reached, err = a.owner.Reaches(path)
		return err
	})
	if err != nil {
		return nil, err
	}
	if reached {
		f.owner = nil
	}
	err = f.owner.Aside(func() (err error) {
		if create {
			f.root, err = f.owner.MakeFolder(path)
		} else {
			f.root, err = f.owner.OpenFolder(path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// do calls f with the folder, as the user who works in it.
func (d *folder) do(f func(*os.Root) error) error {
	return d.owner.Aside(func() error { return f(d.root) })
}

// Open opens a file of the folder to read it. What is neither a regular file nor a folder is an error.
func (d *folder) Open(name string) (fs.File, error) {
	var file *os.File
	err := d.do(func(root *os.Root) (err error) {
		file, err = root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would hold it up
		return err
	})
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// ReadDir lists the folder name within.
func (d *folder) ReadDir(name string) (entries []fs.DirEntry, err error) {
	err = d.do(func(root *os.Root) (err error) {
		entries, err = fs.ReadDir(root.FS(), name)
		return err
	})
	return entries, err
}

func (d *folder) Close() error { return d.root.Close() }
