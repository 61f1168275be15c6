//go:build !unix

package main

func noCores() {}
