package sandbox_test

import (
	"strings"
	"testing"
	"time"

	"relayd/internal/sandbox"
)

func TestParseFault(t *testing.T) {
	for text, want := range map[string]sandbox.Fault{
		"rcpt:bob@=450 4.2.1 later*3":      {Stage: sandbox.StageRcpt, Match: "bob@", Reply: "450 4.2.1 later", Times: 3},
		"auth=535 5.7.8 no":                {Stage: sandbox.StageAuth, Reply: "535 5.7.8 no"},
		"dot=drop*1":                       {Stage: sandbox.StageDot, Drop: true, Times: 1},
		"DOT= lose , drop ":                {Stage: sandbox.StageDot, Lose: true, Drop: true},
		"body=after 20000,reset*1":         {Stage: sandbox.StageBody, After: 20000, Reset: true, Times: 1},
		"greeting=delay 2s,421 4.3.2 a, b": {Stage: sandbox.StageGreeting, Delay: 2 * time.Second, Reply: "421 4.3.2 a, b"},
		`mail:SIZE\=9=552 a\n552 b`:        {Stage: sandbox.StageMail, Match: "SIZE=9", Reply: "552 a\n552 b"},
		`mail:a\\b=hang`:                   {Stage: sandbox.StageMail, Match: `a\b`, Hang: true},
		"rcpt:a:b=drop":                    {Stage: sandbox.StageRcpt, Match: "a:b", Drop: true},
		"connect=skip 2,drop,reset":        {Stage: sandbox.StageConnect, Skip: 2, Drop: true, Reset: true},
		"dot=450 2*3 is 6":                 {Stage: sandbox.StageDot, Reply: "450 2*3 is 6"},
		"dot=450 a*3*0":                    {Stage: sandbox.StageDot, Reply: "450 a*3"},
		"dot=450":                          {Stage: sandbox.StageDot, Reply: "450"},
		`ehlo=250 x\r\n`:                   {Stage: sandbox.StageEHLO, Reply: "250 x\r\n"},
	} {
		got, err := sandbox.ParseFault(text)
		if err != nil || got != want {
			t.Errorf("%s is %+v, %v", text, got, err)
		}
		if again, err := sandbox.ParseFault(got.String()); err != nil || again != want {
			t.Errorf("%s, written as %s, is %+v, %v", text, got, again, err)
		}
	}
}

func TestParseFault_ErrorsSayWhatMayStandThere(t *testing.T) {
	for text, want := range map[string]string{
		"":                  "STAGE[:MATCH]=ACTION",
		"rcpt":              "STAGE[:MATCH]=ACTION",
		"rctp=drop":         `no stage is called "rctp"; the stages are connect, greeting`,
		"rcpt:=drop":        "leave the colon away",
		"rcpt=":             "it does nothing",
		"rcpt=skip 1":       "it does nothing",
		"rcpt=explode":      "the actions are drop",
		"rcpt=drop now":     "drop takes no value",
		"rcpt=drop*often":   `"often" after "*"`,
		"rcpt=delay 5":      `"delay 5s"`,
		"rcpt=delay":        `"delay 5s"`,
		"rcpt=after 3,drop": "belongs to stage body",
		"body=after x,drop": `"after 1000"`,
		"rcpt=lose":         "belongs to stage dot",
		"rcpt=drop*-1":      "cannot be negative",
	} {
		_, err := sandbox.ParseFault(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v", text, err)
		}
	}
}

func TestFaultSyntax_NamesEachStageAndItsExamplesParse(t *testing.T) {
	for _, stage := range sandbox.Stages() {
		if !strings.Contains(sandbox.FaultSyntax, string(stage)) {
			t.Errorf("stage %s is missing", stage)
		}
	}
	_, examples, _ := strings.Cut(sandbox.FaultSyntax, "\n\nrcpt:")
	lines := strings.Split(strings.TrimSpace("rcpt:"+examples), "\n")
	if len(lines) < 3 {
		t.Fatalf("the examples are %q", lines)
	}
	for _, line := range lines {
		example, _, _ := strings.Cut(line, "   ")
		if _, err := sandbox.ParseFault(example); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseFault(f *testing.F) {
	f.Add("rcpt:bob@=450 4.2.1 later*3")
	f.Add(`mail:a\=\\b=skip 1,delay 2s,hang,drop,reset,451 a\n\\n*2`)
	f.Add("body=after 7,450 a*3*0")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := sandbox.ParseFault(text)
		if err != nil {
			return
		}
		again, err := sandbox.ParseFault(first.String())
		if err != nil || again != first {
			t.Errorf("%q is %+v, but written as %q it is %+v, %v", text, first, first, again, err)
		}
	})
}
