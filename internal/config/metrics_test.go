package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestMetrics_AreOffUntilAnAddressIsGiven(t *testing.T) {
	for _, text := range []string{"", "[metrics]\n"} {
		if cfg := good(t, fourLines+text); cfg.Metrics != (Metrics{}) {
			t.Errorf("%q: %+v", text, cfg.Metrics)
		}
	}
	cfg := good(t, fourLines+"[metrics]\naddress = \"127.0.0.1:9125\"\n")
	if cfg.Metrics.Address != "127.0.0.1:9125" {
		t.Errorf("%+v", cfg.Metrics)
	}
	wantAll(t, cfg.Describe(), "\nMetrics         for Prometheus, to whoever can connect to port 9125 of 127.0.0.1\n")
	if strings.Contains(good(t, fourLines).Describe(), "\nMetrics") {
		t.Error("metrics are described that nobody asked for")
	}
}

func TestMetrics_AnAddressThatOthersCanReachIsWarnedOf(t *testing.T) {
	for address, warned := range map[string]bool{
		"127.0.0.1:9125": false, "127.8.9.10:0": false, "[::1]:9125": false, "[::ffff:127.0.0.1]:9125": false,
		"localhost:9125": false, "LocalHost:9125": false,
		":9125": true, "0.0.0.0:9125": true, "[::]:9125": true, "192.168.1.5:9125": true, "[fe80::1]:9125": true,
		"localhost.example:9125": true, "relay.lan:9125": true,
	} {
		warnings := warningsOf(t, write(t, fourLines+"[metrics]\naddress = \""+address+"\"\n"))
		if got := strings.Contains(warnings, "relayd.toml:7: metrics.address: whoever can connect to "); got != warned {
			t.Errorf("%s: warned %v, want %v: %s", address, got, warned, warnings)
		}
	}
}

func TestMetrics_Faults(t *testing.T) {
	for text, want := range map[string]string{
		"address = \"127.0.0.1\"\n":       `:7: metrics.address: "127.0.0.1" has no port; write address = "127.0.0.1:9125"`,
		"address = \"9125\"\n":            `:7: metrics.address: "9125" has no colon; write address = "127.0.0.1:9125"`,
		"address = \"*:9125\"\n":          `:7: metrics.address: "*:9125": * is not an address; write address = "127.0.0.1:9125"`,
		"address = \"127.0.0.1:99999\"\n": `:7: metrics.address: "127.0.0.1:99999": `,
		"address = 9125\n":                `:7: metrics.address: is a bare number, but must be a string in quotes; write address = "127.0.0.1:9125"`,
		"adress = \"127.0.0.1:9125\"\n":   `:7: metrics.adress: `,
	} {
		wantAll(t, faultsOf(t, fourLines+"[metrics]\n"+text), want)
	}
}

func TestMetrics_HaveAPortOfTheirOwn(t *testing.T) {
	const mail, metrics = "[[listener]]\naddress = \"127.0.0.1:9125\"\n", "[metrics]\naddress = \"%s\"\n"
	for _, address := range []string{"127.0.0.1:9125", ":9125", "[::ffff:127.0.0.1]:9125"} {
		wantAll(t, faultsOf(t, fourLines+mail+fmt.Sprintf(metrics, address)), `:9: metrics.address: "`+address+
			`" is taken by the [[listener]] on "127.0.0.1:9125", which is for mail; give the metrics a port of their own`)
	}
	for _, address := range []string{"127.0.0.1:9126", "127.0.0.2:9125", "127.0.0.1:0"} {
		good(t, fourLines+mail+fmt.Sprintf(metrics, address))
	}
	wantAll(t, faultsOf(t, fourLines+fmt.Sprintf(metrics, "127.0.0.1:25")), `:7: metrics.address: "127.0.0.1:25" is taken by the [[listener]] on ":25"`)
}

// The names of smarthosts are shown to whoever asks, without a login. That of an account is a person's address.
func TestMetrics_ShowNobodysAddressAsTheNameOfASmarthost(t *testing.T) {
	named := strings.Replace(fourLines, "[[smarthost]]\n", "[[smarthost]]\nname = \"me@isp.example\"\n", 1)
	good(t, named)
	wantAll(t, faultsOf(t, named+"[metrics]\naddress = \"127.0.0.1:9125\"\n"),
		`:8: metrics.address: metrics show the names of smarthosts, and "me@isp.example" is an address`, "give that smarthost a name without @")
}
