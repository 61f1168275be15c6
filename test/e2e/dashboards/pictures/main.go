// Command pictures takes the pictures of the dashboards in docs/images from a
// Grafana that has them and something to show.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

func main() {
	grafana := flag.String("grafana", "http://127.0.0.1:3000", "address of Grafana")
	folder := flag.String("to", "../../docs/images", "folder of the pictures")
	cluster := flag.String("cluster", "", "the cluster to show")
	node := flag.String("node", "", "the node to show")
	flag.Parse()
	if err := take(*grafana, *folder, "&var-cluster="+*cluster, "&var-node="+*node); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func take(grafana, folder, cluster, node string) error {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		return err
	}
	profile, err := os.MkdirTemp("", "pictures")
	if err != nil {
		return err
	}
	defer os.RemoveAll(profile)
	ctx, cancel := chromedp.NewExecAllocator(
		context.Background(),
		chromedp.ExecPath(chromium), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.UserDataDir(profile),
		chromedp.Flag("no-proxy-server", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.ModifyCmdFunc(func(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }),
	)
	defer cancel()
	browser, cancelBrowser := chromedp.NewContext(ctx)
	defer cancelBrowser()
	if err := chromedp.Do(browser); err != nil {
		return err
	}
	for file, page := range map[string]string{
		"dashboard-fleet.png":         "fleet?theme=dark",
		"dashboard-cluster.png":       "cluster?theme=dark" + cluster,
		"dashboard-cluster-light.png": "cluster?theme=light" + cluster,
		"dashboard-node.png":          "node?theme=dark" + cluster + node,
	} {
		if err := picture(browser, grafana+"/d/workload-identity-"+page+"&kiosk", filepath.Join(folder, file)); err != nil {
			return fmt.Errorf("%s: %w", page, err)
		}
	}
	return nil
}

// picture is of the first screen of a page.
func picture(browser context.Context, address, file string) error {
	ctx, cancel := chromedp.NewContext(browser)
	defer cancel()
	if _, err := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 1440, Height: 900, DeviceScaleFactor: 1}); err != nil {
		return err
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(address)); err != nil {
		return err
	}
	time.Sleep(20 * time.Second) // pages of Grafana do not say when they are complete
	shot, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		return err
	}
	return os.WriteFile(file, shot, 0o600)
}
