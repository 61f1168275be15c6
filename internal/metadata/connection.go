package metadata

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

const (
	// maxBody is many times the size of any answer: an email has up to about
	// 100 bytes, a token about 1 to 3 kB.
	maxBody   = 16 << 10
	maxHeader = 16 << 10
	// maxFramed is how much is read of a body with what frames its chunks.
	maxFramed = 4 * maxBody
)

var (
	errTooLarge = errors.New("larger than any answer")
	errNotHTTP  = errors.New("not HTTP")
)

// connection is the TCP connection of one exchange. It is closed when the context
// ends, whatever the peer does, and nothing of it outlives the exchange.
//
// The transport of net/http is not used, because it promises less: it dials
// detached from the request, leaves the body of a 101 to whoever reads it, for
// ever, and hides where in an answer a connection broke. A new connection for each
// request is the simple case of HTTP, and costs less by hand, too.
type connection struct {
	net.Conn
	ctx    context.Context
	reader *bufio.Reader
	left   int   // how many bytes may be read
	err    error // that ended the reading

	stop   func() bool
	closed chan struct{} // by the end of the context
}

// dialer is the DialContext of net.Dialer.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// connect opens a connection to the host of the URL. A kept-alive one would keep
// the NAT decision of its first packet and hide a masquerade change until it is
// closed.
func connect(ctx context.Context, dial dialer, u *url.URL) (*connection, error) {
	conn, err := dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")))
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, ctx: ctx, closed: make(chan struct{})}
	c.reader = bufio.NewReader(c)
	c.stop = context.AfterFunc(ctx, func() {
		_ = conn.Close()
		close(c.closed)
	})
	// The context's timer would do. But what fails by this one says so by itself.
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	return c, nil
}

func (c *connection) close() {
	if !c.stop() {
		<-c.closed // so that no goroutine is left
	}
	_ = c.Close()
	// What was read may be a token, and the buffer lies in memory until it is reused.
	c.reader.Reset(zeros{})
	_, _ = c.reader.Peek(c.reader.Size())
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Read reads no more than is left to read.
func (c *connection) Read(b []byte) (int, error) {
	if c.left <= 0 {
		c.err = errTooLarge
		return 0, c.err
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	c.err = err
	return n, err
}

// ask writes the request and reads the answer up to its body. Answers on the way
// to the final one (1xx) are skipped, but for a change to another protocol, after
// which no other answer comes.
func (c *connection) ask(r *http.Request) (*http.Response, error) {
	var request bytes.Buffer
	if err := r.Write(&request); err != nil {
		return nil, err
	}
	// A server may answer, and close, before it has read the request. If it has not
	// answered, that shows when reading.
	_, _ = c.Write(request.Bytes())
	c.left = maxHeader
	const version = "HTTP/1."
	for {
		const header = "the header of the answer is"
		start, err := c.reader.Peek(len(version))
		switch {
		case string(start) != version[:len(start)]:
			return nil, errNotHTTP
		case err != nil:
			return nil, c.cause(err, header)
		}
		res, err := http.ReadResponse(c.reader, r)
		if err != nil {
			return nil, c.cause(err, header)
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil
		}
	}
}

// readBody reads the body to its end. It is not closed: that would read on until
// the end of what the server sends.
func (c *connection) readBody(res *http.Response) ([]byte, error) {
	c.left = maxFramed
	body, err := readAll(res.Body)
	if err == nil && len(body) > maxBody {
		err = errTooLarge
	}
	return body, c.cause(err, "the body is")
}

// readAll is io.ReadAll, but it reads one byte more than maxBody at most, and leaves no
// copy behind when it needs more room.
func readAll(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, 4<<10) // the usual token fits
	for {
		n, err := r.Read(b[len(b):min(cap(b), maxBody+1)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil, len(b) > maxBody:
			return b, err
		case len(b) == cap(b):
			larger := make([]byte, len(b), 2*cap(b)+1)
			copy(larger, b)
			clear(b)
			b = larger
		}
	}
}

// cause is why reading failed. What has come until a connection breaks is parsed
// like a whole answer, so that the error of the parser would hide that.
func (c *connection) cause(err error, what string) error {
	if err != nil && c.err != nil && !errors.Is(err, errTooLarge) {
		err = c.err
	}
	switch {
	case errors.Is(err, net.ErrClosed): // which only the end of the context does
		return c.ctx.Err()
	case errors.Is(err, errTooLarge):
		return fmt.Errorf("%s %w", what, err)
	}
	return err
}
