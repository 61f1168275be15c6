// Package web looks at the status page as people do: with Chromium, on a desktop
// and on a phone, in the light and in the dark, and by what a screen reader gets.
// It has no code of its own, only tests.
//
// All of it runs in a network namespace that has nothing but a loopback device,
// with a simulator at 169.254.169.254, so that the exporter has its default
// settings and nothing else can be reached.
//
// With -update it takes the pictures in docs/images/status again; the test only
// looks at the structure, since fonts differ from one machine to the next.
package web
