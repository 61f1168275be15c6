//go:build !race

package cli_test

// raceDetector tells whether the programs are built with it, as the test itself.
const raceDetector = false
