//go:build unix

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestGateways_AreThoseOfTheDefaultRoutes(t *testing.T) {
	dir := t.TempDir()
	v4, v6 := filepath.Join(dir, "route"), filepath.Join(dir, "ipv6_route")
	for name, text := range map[string]string{
		v4: "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
			"eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
			"eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n" +
			"tun0\t00000000\t0101000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n",
		v6: "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 1 0 3 eth0\n" +
			"fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 1 0 1 eth0\n" +
			"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 1 0 200200 lo\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(gateways(v4, v6)); got != "[172.17.0.1 fd00::1]" {
		t.Errorf("the gateways are %s", got)
	}
	if got := gateways(filepath.Join(dir, "none"), filepath.Join(dir, "none")); got != nil {
		t.Errorf("without tables: %v", got)
	}
	if !forwards(netip.MustParseAddr("10.0.2.2")) || forwards(netip.MustParseAddr("192.0.2.7")) {
		t.Error("what forwards is mistaken")
	}
}
