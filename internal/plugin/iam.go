package plugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/sync/errgroup"

	"github.com/workload-identity-exporter/workload-identity-exporter/internal/foreign"
	"github.com/workload-identity-exporter/workload-identity-exporter/internal/identity"
)

// IAM is what Google says about the accounts, by the caller's own credentials.
type IAM struct {
	// Client has the credentials.
	Client *http.Client
	// Accounts and Projects are where the IAM API and the Resource Manager API are.
	Accounts, Projects string
	// QuotaProject is what requests are counted for, as the credentials of people need it.
	QuotaProject string

	// Pool is the cluster's workload pool, empty to go by the project of its nodes.
	Pool string
	// NodeAccounts are the service accounts of node pools.
	NodeAccounts []string
}

// NewIAM finds the Application Default Credentials. It asks for nothing yet, but on a VM of
// Google's for the cloud that it is in.
func NewIAM(ctx context.Context) (*IAM, error) {
	found, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		return nil, errors.New("there are no Application Default Credentials: run gcloud auth application-default login")
	}
	var file struct {
		Quota string `json:"quota_project_id"`
	}
	_ = json.Unmarshal(found.JSON, &file) // there is none where the metadata server gives tokens
	// A token is for the cloud that it comes from, and nobody else is to see it.
	universe, err := found.GetUniverseDomain()
	if err != nil {
		return nil, errors.New("the Application Default Credentials do not tell their universe domain: is the metadata server reached?")
	}
	if want := os.Getenv("GOOGLE_CLOUD_UNIVERSE_DOMAIN"); want != "" && want != universe {
		return nil, fmt.Errorf("GOOGLE_CLOUD_UNIVERSE_DOMAIN=%q, but the Application Default Credentials are for %q: want credentials of that cloud", want, universe)
	}
	client := oauth2.NewClient(ctx, found.TokenSource)
	return &IAM{
		Client: client, Accounts: "https://iam." + universe, Projects: "https://cloudresourcemanager." + universe,
		QuotaProject: cmp.Or(os.Getenv("GOOGLE_CLOUD_QUOTA_PROJECT"), file.Quota),
	}, nil
}

// The checks that need IAM.
var (
	accountMissing  = Check{"WI401", Error, "the Google service account does not exist", "Correct the annotation, or create the account."}
	accountDisabled = Check{"WI402", Error, "the Google service account is disabled", "Enable it, or annotate another one."}
	notBound        = Check{"WI403", Error, "the ServiceAccount may not use the Google service account", "Grant it roles/iam.workloadIdentityUser on the account."}
	otherPool       = Check{"WI404", Warning, "only a ServiceAccount of this name in another workload pool may use the Google service account", "Grant roles/iam.workloadIdentityUser to the one of this cluster's pool, unless the cluster has that pool by its fleet."}
	conditional     = Check{"WI405", Info, "the ServiceAccount may use the Google service account under a condition, which was not evaluated", "See whether the condition holds."}
	denied          = Check{"WI406", Warning, "a deny policy is about tokens of service accounts", "See whether it denies the ServiceAccounts of this cluster."}
	powerfulNode    = Check{"WI407", Warning, "a fallback to the node's identity gives Pods its whole project", "Give the node pool an account with roles/container.defaultNodeServiceAccount alone."}
)

const userRole = "roles/iam.workloadIdentityUser"

type binding struct {
	Role      string   `json:"role"`
	Members   []string `json:"members"`
	Condition *struct {
		Title      string `json:"title"`
		Expression string `json:"expression"`
	} `json:"condition"`
}

// answer is an HTTP status that is no success.
type answer struct {
	status  int
	message string
}

func (a answer) Error() string { return fmt.Sprintf("%d: %s", a.status, a.message) }

// iamAudit is one run. What is read of projects is read once.
type iamAudit struct {
	*IAM
	audit  audit
	pools  []string
	unread map[string]bool
	mu     sync.Mutex // guards audit, unread
	// projects are their policies, nil where they may not be read.
	projects sync.Map
}

// Audit asks for each Google service account that Pods use. It returns what may not be read as well.
func (i *IAM) Audit(ctx context.Context, inventory Inventory) ([]Finding, []string, error) {
	a := iamAudit{IAM: i, audit: audit{findings: map[Finding]bool{}}, unread: map[string]bool{}}
	projects := map[string]bool{}
	for _, n := range inventory.Nodes {
		if project := projectOfNode(n.Spec.ProviderID); project != "" {
			projects[project] = true
		}
	}
	for _, project := range slices.Sorted(maps.Keys(projects)) {
		if pool := identity.PoolOf(project); pool != "" {
			a.pools = append(a.pools, pool)
		}
	}
	if i.Pool != "" {
		a.pools = []string{i.Pool}
	}
	used, by := map[string]bool{}, map[string][]string{}
	for _, p := range inventory.Pods {
		used[p.account()] = true
	}
	for account, email := range inventory.emails() {
		if used[account] {
			by[email] = append(by[email], account)
		}
	}
	var group errgroup.Group
	group.SetLimit(8) // IAM allows 6,000 reads a minute
	for _, email := range slices.Sorted(maps.Keys(by)) {
		projects[projectOf(email)] = true
		group.Go(func() error { a.account(ctx, email, by[email]); return nil })
	}
	_ = group.Wait()
	delete(projects, "-")
	for _, project := range slices.Sorted(maps.Keys(projects)) {
		a.denials(ctx, project)
		a.nodes(ctx, project)
	}
	return a.audit.sorted(), slices.Sorted(maps.Keys(a.unread)), ctx.Err()
}

// projectOf is the project of a service account by its email, - where that does not tell, as for those
// that Google makes. In a sovereign cloud app@shop.s3ns.iam.gserviceaccount.com is of the project s3ns:shop.
func projectOf(email string) string {
	_, domain, _ := strings.Cut(email, "@")
	project, ok := strings.CutSuffix(domain, ".iam.gserviceaccount.com")
	name, universe, sovereign := strings.Cut(project, ".")
	switch {
	case !ok, strings.Contains(universe, "."), strings.HasSuffix(universe, "-system"):
		return "-"
	case sovereign:
		return universe + ":" + name
	}
	return project
}

func (a *iamAudit) found(c Check, object, evidence string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.audit.found(c, object, evidence, args...)
}

// skip remembers what is not known, and why.
func (a *iamAudit) skip(what string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reply, ok := errors.AsType[answer](err); ok {
		err = fmt.Errorf("status %d", reply.status)
	}
	a.unread[shown(what+" ("+err.Error()+")")] = true
}

// account looks at one, and at the ServiceAccounts that are annotated with it. With - as project
// the API answers 403 for one that does not exist, which says nothing.
func (a *iamAudit) account(ctx context.Context, email string, users []string) {
	object := "Google service account " + email
	path := a.Accounts + "/v1/projects/" + url.PathEscape(projectOf(email)) + "/serviceAccounts/" + url.PathEscape(email)
	var account struct {
		Disabled bool `json:"disabled"`
	}
	err := a.ask(ctx, http.MethodGet, path, nil, &account)
	if reply, ok := errors.AsType[answer](err); ok && reply.status == http.StatusNotFound {
		slices.Sort(users)
		a.found(accountMissing, object, "IAM answers %s; ServiceAccounts %s are annotated with it", reply.Error(), strings.Join(users, ", "))
		return
	}
	if err != nil {
		a.skip(object, err)
		return
	}
	if account.Disabled {
		a.found(accountDisabled, object, "disabled is true in IAM")
	}
	var own struct {
		Bindings []binding `json:"bindings"`
	}
	if err := a.ask(ctx, http.MethodPost, path+":getIamPolicy?options.requestedPolicyVersion=3", struct{}{}, &own); err != nil {
		a.skip("the policy of "+object, err)
		return
	}
	for _, user := range users {
		a.bound(ctx, email, user, own.Bindings)
	}
}

// bound tells whether the ServiceAccount may use the account, by its own policy or by that of its project. Policies
// of folders and organizations are not read, and custom roles may be as good.
func (a *iamAudit) bound(ctx context.Context, email, user string, bindings []binding) {
	namespace, name, _ := strings.Cut(user, "/")
	object := "ServiceAccount " + user
	var condition, other string
	for level := range 2 {
		if level == 1 {
			inherited, err := a.project(ctx, projectOf(email))
			if err != nil {
				a.skip("the policy of the project "+projectOf(email), err)
				return
			}
			bindings = inherited
		}
		for _, b := range bindings {
			for _, m := range b.Members {
				pool, is := memberOf(m, namespace, name)
				switch {
				case !is || !grants(b.Role):
				case pool != "" && len(a.pools) > 0 && !slices.Contains(a.pools, pool):
					other = m
				case b.Condition != nil:
					condition = fmt.Sprintf("%s to %s if %q: %s", b.Role, m, shown(b.Condition.Title), shown(b.Condition.Expression))
				default:
					return
				}
			}
		}
	}
	switch {
	case condition != "":
		a.found(conditional, object, "%s", condition)
	case other != "":
		a.found(otherPool, object, "%s has %s on %s, and the cluster's pool is %s", other, userRole, email, strings.Join(a.pools, " or "))
	default:
		a.found(notBound, object, "neither the policy of %s nor that of its project grants %s to serviceAccount:%s[%s]", email, userRole, cmp.Or(strings.Join(a.pools, " or "), "POOL"), user)
	}
}

// grants tells whether a role may let to tokens. What is in a custom one is not read.
func grants(role string) bool {
	return role == userRole || role == "roles/iam.serviceAccountTokenCreator" || role == "roles/owner" || !strings.HasPrefix(role, "roles/")
}

// memberOf reports whether the ServiceAccount is the member or one of that set, and of which pool; empty if
// that does not matter (GKE documentation, "About Workload Identity Federation").
func memberOf(member, namespace, name string) (pool string, is bool) {
	if member == "allUsers" || member == "allAuthenticatedUsers" {
		return "", true
	}
	if rest, ok := strings.CutPrefix(member, "serviceAccount:"); ok {
		pool, of, ok := strings.Cut(rest, "[")
		return pool, ok && of == namespace+"/"+name+"]"
	}
	_, rest, ok := strings.Cut(member, "/workloadIdentityPools/")
	pool, of, _ := strings.Cut(rest, "/")
	switch {
	case !ok:
		return "", false
	case strings.HasPrefix(member, "principal://"):
		return pool, of == "subject/ns/"+namespace+"/sa/"+name
	case strings.HasPrefix(member, "principalSet://"):
		return pool, of == "*" || of == "namespace/"+namespace || strings.HasPrefix(of, "kubernetes.cluster/") || strings.HasPrefix(of, "kubernetes.serviceaccount.uid/")
	}
	return "", false
}

// project reads its policy once.
func (a *iamAudit) project(ctx context.Context, project string) ([]binding, error) {
	if project == "-" {
		return nil, errors.New("the email does not tell which it is")
	}
	read, _ := a.projects.LoadOrStore(project, sync.OnceValues(func() ([]binding, error) {
		var policy struct {
			Bindings []binding `json:"bindings"`
		}
		version := map[string]any{"options": map[string]any{"requestedPolicyVersion": 3}}
		err := a.ask(ctx, http.MethodPost, a.Projects+"/v1/projects/"+url.PathEscape(project)+":getIamPolicy", version, &policy)
		return policy.Bindings, err
	}))
	return read.(func() ([]binding, error))()
}

// denials names the deny policies of a project that are about tokens. Lists come without rules.
func (a *iamAudit) denials(ctx context.Context, project string) {
	const token = "iam.googleapis.com/serviceAccounts.getAccessToken"
	what := "deny policies of the project " + project
	point := a.Accounts + "/v2/policies/" + url.PathEscape("cloudresourcemanager.googleapis.com/projects/"+project) + "/denypolicies"
	var list struct {
		Policies []struct {
			Name string `json:"name"`
		} `json:"policies"`
		Next string `json:"nextPageToken"`
	}
	err := a.ask(ctx, http.MethodGet, point, nil, &list)
	if err == nil && list.Next != "" {
		err = errors.New("there are more")
	}
	if err != nil {
		a.skip(what, err)
		return
	}
	for _, p := range list.Policies {
		var policy struct {
			Rules []struct {
				Deny struct {
					Permissions []string `json:"deniedPermissions"`
					Principals  []string `json:"deniedPrincipals"`
				} `json:"denyRule"`
			} `json:"rules"`
		}
		id := p.Name[strings.LastIndexByte(p.Name, '/')+1:]
		if err := a.ask(ctx, http.MethodGet, point+"/"+url.PathEscape(id), nil, &policy); err != nil {
			a.skip(what, err)
			continue
		}
		for _, r := range policy.Rules {
			if slices.Contains(r.Deny.Permissions, token) {
				a.found(denied, "Deny policy "+project+"/"+id, "it denies %s to %s", token, strings.Join(r.Deny.Principals, ", "))
			}
		}
	}
}

// nodes looks at what a Pod may do as its node.
func (a *iamAudit) nodes(ctx context.Context, project string) {
	for _, email := range a.NodeAccounts {
		bindings, err := a.project(ctx, project)
		if err != nil {
			a.skip("the policy of the project "+project, err)
			return
		}
		for _, b := range bindings {
			if (b.Role == "roles/editor" || b.Role == "roles/owner") && slices.Contains(b.Members, "serviceAccount:"+email) {
				a.found(powerfulNode, "Google service account "+email, "it has %s on the project %s: blast radius: project", b.Role, project)
			}
		}
	}
}

// ask makes one request. Nothing of a token is in an error: it is in a header.
func (a *iamAudit) ask(ctx context.Context, method, address string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var send io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, address, send)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if a.QuotaProject != "" {
		request.Header.Set("X-Goog-User-Project", a.QuotaProject)
	}
	client := *a.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token is for Google
	response, err := client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// What the token's server says is quoted by oauth2, and may be more than a reason.
		return errors.New("there is no answer, or no token for it")
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		var failed struct {
			Error struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		_ = json.Unmarshal(text, &failed) // a proxy answers otherwise
		return answer{response.StatusCode, foreign.Text(cmp.Or(failed.Error.Message, http.StatusText(response.StatusCode)), longest)}
	}
	if err := json.Unmarshal(text, into); err != nil {
		return errors.New("the answer is not the JSON of that API")
	}
	return nil
}
