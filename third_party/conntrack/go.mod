// Takes the place of github.com/mwitkow/go-conntrack, see conntrack.go.
module github.com/mwitkow/go-conntrack

go 1.26.7
