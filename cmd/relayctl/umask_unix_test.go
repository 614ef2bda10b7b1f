//go:build unix

package main

import "syscall"

// usualUmask makes the modes of the files that scripts bring and make those of most machines, whoever runs the tests.
func usualUmask() { syscall.Umask(0o022) }
