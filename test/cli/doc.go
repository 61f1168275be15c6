// Package cli tests the two programs as their users see them: by their settings,
// their output, their exit codes and what they serve over HTTP. It has no code
// of its own, only tests.
//
// The scripts are in testdata/script, one for each thing a user may want to
// know, and are run by github.com/rogpeppe/go-internal/testscript. One of them:
//
//	go test ./test/cli -run TestScripts/^typos$ -v
//
// Besides the commands of testscript they have these:
//
//	simulator NAME [FLAG...]
//	    starts gke-metadata-simulator on free ports, and sets $NAME to the HOST:PORT
//	    of the metadata server, $NAME_PORT to its port and $NAME_SWITCHES to the
//	    HOST:PORT of its switches.
//	agent NAME [VARIABLE=VALUE...]
//	    starts workload-identity-exporter on a free port with these settings, and
//	    sets $NAME to its HOST:PORT. It probes each second, see impatient. It does
//	    not see what the command env has set.
//	logs NAME
//	    prints what the program has written to stderr so far.
//	signal NAME SIGNAL
//	    sends TERM or INT to the program.
//	insist NAME SIGNAL
//	    sends the signal until the program has ended.
//	ended NAME CODE|SIGNAL [DURATION]
//	    waits until the program has ended, and fails unless it ended with the exit
//	    code or by the signal, and within the duration of the last signal.
//	exitcode CODE PROGRAM [ARGUMENT...]
//	    is exec for a program that must end with exactly this exit code.
//	stopping NAME
//	    waits until the agent accepts no more connections.
//	get|put [-header 'NAME: VALUE'] [-user NAME:PASSWORD] [-ca FILE] URL
//	    prints the body to stdout, the status and the headers to stderr.
//	wait-for URL REGEXP [DURATION]
//	    gets the URL again and again until its body matches, for a minute at most.
//	emails NAME
//	    sets $NAME to a list of 100 kB, so that the settings in the status are as large, too.
//	slow-read NAME, finish-read
//	    ask the agent for its status and read the beginning of the answer, and the rest.
//	kubernetes
//	    starts an API server with the ServiceAccount demo/app, and gives every agent
//	    that is started afterwards the mounted credentials for it.
//	annotate [KEY=VALUE...]
//	    replaces the annotations of the ServiceAccount.
//	api-server STATUS|away|requests
//	    makes the API server answer with the status, go away, or prints what it was asked.
//	certificate
//	    writes cert.pem and key.pem for 127.0.0.1.
//	tokenless NAME
//	    fails if a page, the metrics or the log of the agent hold $SECRET.
//
// When a script ends, the programs that still run are stopped by SIGTERM. They
// must then end with exit code 0, and must not have logged a token ($SECRET).
package cli
