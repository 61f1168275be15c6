package faults_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fileRows are what may be in the files of the HTTP server.
func fileRows() []row {
	var rows []row
	for _, f := range []struct {
		name   string
		breaks func(*stage, *webFiles)
		// serves: the server goes on as before.
		serves, starts bool
	}{
		{"no certificate", func(s *stage, _ *webFiles) { s.remove("tls.crt") }, false, false},
		{"no key", func(s *stage, _ *webFiles) { s.remove("tls.key") }, false, false},
		{"an empty certificate", func(s *stage, _ *webFiles) { s.write("tls.crt", "") }, false, false},
		{"half a certificate", func(s *stage, f *webFiles) { s.write("tls.crt", f.certificate[:len(f.certificate)/2]) }, false, false},
		{"half a key", func(s *stage, f *webFiles) { s.write("tls.key", f.key[:len(f.key)/2]) }, false, false},
		{"a certificate of nonsense", func(s *stage, _ *webFiles) {
			s.write("tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("nonsense")})))
		}, false, false},
		{"a key of another certificate", func(s *stage, _ *webFiles) { s.write("tls.key", s.webFiles().key) }, false, false},
		{"a folder instead of the key", func(s *stage, _ *webFiles) { s.remove("tls.key"); s.folderNamed("tls.key") }, false, false},
		{"an expired certificate", func(s *stage, _ *webFiles) { s.webFilesUntil(time.Now().Add(-time.Hour)).place(s) }, true, true},
		{"the next certificate", func(s *stage, _ *webFiles) { s.webFiles().place(s) }, true, true},
		{"no configuration", func(s *stage, _ *webFiles) { s.remove("web.yml") }, false, false},
		{"an empty configuration", func(s *stage, _ *webFiles) { s.write("web.yml", "") }, false, true},
		{"a configuration without the names of files", func(s *stage, _ *webFiles) { s.write("web.yml", "tls_server_config:\n  cert_file: ") }, false, true},
		{"half a configuration", func(s *stage, _ *webFiles) { s.write("web.yml", "tls_server_config:\n  cert_file: tls.crt\n") }, false, false},
		{"a configuration that is no YAML", func(s *stage, _ *webFiles) { s.write("web.yml", "\t{{[[") }, false, false},
		{"a configuration with a key that is not known", func(s *stage, _ *webFiles) { s.write("web.yml", webConfiguration+"  password: hunter2\n") }, false, false},
		{"a configuration of 100 kB", func(s *stage, _ *webFiles) { s.write("web.yml", strings.Repeat("a: &a [*a]\n", 10_000)) }, false, false},
		{"a version of TLS that is none", func(s *stage, _ *webFiles) { s.write("web.yml", webConfiguration+"  min_version: TLS99\n") }, false, false},
		{"client certificates of a CA that is not there", func(s *stage, _ *webFiles) {
			s.write("web.yml", webConfiguration+"  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: absent\n")
		}, false, false},
	} {
		rows = append(rows, row{name: "running: " + f.name, plays: func(s *stage) outcome {
			files := s.webFiles()
			s.encrypted(files)
			s.start(nil)
			s.becomes("match")
			before := s.least()
			f.breaks(s, files)
			for range 20 {
				if _, err := s.get("/metrics"); (err == nil) != f.serves {
					s.Fatalf("the answer is %v; want one: %v\n%s", err, f.serves, s.agent.log.String())
				}
			}
			s.alive()
			// Once more, with the certificate after the next one.
			s.removeAll("tls.key")
			repaired := s.webFiles()
			repaired.place(s)
			s.becomes("match")
			if served := s.served(); !bytes.Contains([]byte(repaired.certificate), pemOf(served)) {
				s.Error("the certificate is not the one of the file")
			}
			s.examine()
			for _, c := range s.status().Changes {
				if c.To != "match" {
					s.Errorf("the state became %s because %s", c.To, c.Why)
				}
			}
			s.within("goroutines and files are as before", func() bool {
				after := s.usage()
				return after.goroutines <= before.goroutines+2 && after.files <= before.files+2
			})
			if f.serves {
				return outcome{state: "`match`", end: "serves with it"}
			}
			return outcome{state: "`match`", end: "refuses, and serves once repaired"}
		}})
		if f.starts {
			continue
		}
		rows = append(rows, row{name: "start: " + f.name, plays: func(s *stage) outcome {
			files := s.webFiles()
			s.encrypted(files)
			f.breaks(s, files)
			a := s.launch(nil)
			select {
			case <-a.ended:
			case <-time.After(10 * time.Second):
				s.Fatal("it does not end")
			}
			said := a.log.String()
			if code := a.command.ProcessState.ExitCode(); code != 1 && code != 2 {
				s.Errorf("exit code %d, want 1 or 2", code)
			}
			if !strings.Contains(said, "WI_WEB_CONFIG_FILE") || strings.Count(strings.TrimSpace(said), "\n") > 1 || len(said) > 1000 || strings.Contains(said, "panic") {
				s.Errorf("it says\n%.2000s\nwant a line with WI_WEB_CONFIG_FILE", said)
			}
			return outcome{end: "ends with a line of why"}
		}})
	}
	return rows
}

const webConfiguration = "tls_server_config:\n  cert_file: tls.crt\n  key_file: tls.key\n"

// webFiles are a certificate and its key.
type webFiles struct{ certificate, key string }

func (s *stage) webFiles() *webFiles { return s.webFilesUntil(time.Now().Add(time.Hour)) }

func (s *stage) webFilesUntil(until time.Time) *webFiles {
	s.Helper()
	c, key, err := newCertificate(until)
	if err != nil {
		s.Fatal(err)
	}
	return &webFiles{string(pemOf(c.Certificate[0])), string(key)}
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (f *webFiles) place(s *stage) { f.placeIn(s, "") }

func (f *webFiles) placeIn(s *stage, folder string) {
	s.Helper()
	s.write(filepath.Join(folder, "web.yml"), webConfiguration)
	s.write(filepath.Join(folder, "tls.crt"), f.certificate)
	s.write(filepath.Join(folder, "tls.key"), f.key)
}

// encrypted makes the agent serve, and be asked, by TLS.
func (s *stage) encrypted(f *webFiles) {
	f.place(s)
	s.settings = append(s.settings, "WI_WEB_CONFIG_FILE="+filepath.Join(s.folder, "web.yml"))
	s.scheme = "https"
	s.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}}
}

// served is the certificate that the agent has.
func (s *stage) served() []byte {
	s.Helper()
	c, err := tls.Dial("tcp", s.agent.address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
	if err != nil {
		s.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Raw
}

func (s *stage) write(name, content string) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.folder, name), []byte(content), 0o600); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) remove(name string) {
	s.Helper()
	if err := os.Remove(filepath.Join(s.folder, name)); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) removeAll(name string) { _ = os.RemoveAll(filepath.Join(s.folder, name)) }

func (s *stage) folderNamed(name string) {
	s.Helper()
	if err := os.Mkdir(filepath.Join(s.folder, name), 0o700); err != nil {
		s.Fatal(err)
	}
}
