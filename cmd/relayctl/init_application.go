package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"relayd/internal/oauth"
)

// loginBy says who logs in to an account with OAuth2, in the words of the question.
type loginBy string

const (
	byPerson         loginBy = "person"
	bySecret         loginBy = "secret"
	byCertificate    loginBy = "certificate"
	byServiceAccount loginBy = "service account"
)

// application learns who logs in, and what it takes.
func (i *initRun) application(ctx context.Context) error {
	s, f := &i.setup, i.flags
	c := s.oauth2
	var err error
	if c.by, err = i.loginBy(ctx); err != nil {
		return err
	}
	if c.by == byServiceAccount {
		if f.serviceFile == "" {
			fmt.Fprintf(i.out, "%s\n", wrapped(c.registration(s.provider.Name), 0))
		}
		c.serviceFile, err = i.fileOf(ctx, f.serviceFile, "Key of the service account (its JSON file)")
		return err
	}
	if c.secret, c.secretFile, err = i.fromFile(f.secretFile, "secret"); err != nil {
		return err
	}
	wantsSecret := c.of == oauth.ProviderGoogle || c.by == bySecret
	if c.secretFile == "" && wantsSecret {
		if err := freeFor(s.ownSecretFile(), "--client-secret-file"); err != nil {
			return err
		}
	}
	if c.id = f.clientID; c.id == "" {
		fmt.Fprintf(i.out, "%s\n", wrapped(c.registration(s.provider.Name), 0))
	}
	for c.id == "" {
		if c.id, err = i.ask(ctx, "Client ID of that application: "); err != nil {
			return err
		}
	}
	for wantsSecret && !c.hasSecret() {
		if c.secret, err = i.askHidden(ctx, "Client secret (not shown): "); err != nil {
			return err
		}
	}
	if c.by == byCertificate {
		if err := i.certificate(ctx); err != nil {
			return err
		}
	}
	return i.tenant(ctx)
}

// loginBy learns who logs in: mostly a person, once, which needs no administrator.
func (i *initRun) loginBy(ctx context.Context) (loginBy, error) {
	c, f := i.setup.oauth2, &i.flags
	var others []loginBy
	question := ""
	switch {
	case f.serviceFile != "":
		return byServiceAccount, nil
	case f.certFile != "":
		return byCertificate, nil
	case f.secretFile != "" && c.of == oauth.ProviderMicrosoft:
		return bySecret, nil
	case !i.asks || f.clientID != "" || c.personal:
		return byPerson, nil
	case c.of == oauth.ProviderMicrosoft:
		question, others = "Who logs in: a person, or the application by its secret or certificate", []loginBy{bySecret, byCertificate}
	case f.secretFile != "" || isConsumer(i.setup.username):
		return byPerson, nil
	default:
		question, others = "Who logs in: a person, or a service account of the Workspace", []loginBy{byServiceAccount}
	}
	for {
		answer, err := i.askFor(ctx, question, string(byPerson))
		if err != nil {
			return "", err
		}
		for _, by := range append(others, byPerson) {
			if answer = strings.ToLower(answer); answer != "" && strings.HasPrefix(string(by), answer) {
				return by, nil
			}
		}
		fmt.Fprintf(i.out, "Say person%s.\n", orElse(others))
	}
}

func orElse(others []loginBy) string {
	text := ""
	for n, by := range others {
		if text += ", "; n == len(others)-1 {
			text += "or "
		}
		text += string(by)
	}
	return text
}

// isConsumer reports whether a Google account is in no Workspace, so that no service account can act for it.
func isConsumer(username string) bool {
	_, domain, _ := strings.Cut(strings.ToLower(username), "@")
	return domain == "gmail.com" || domain == "googlemail.com"
}

// certificate learns where the application's certificate is, and its key, which may be in the same file.
func (i *initRun) certificate(ctx context.Context) error {
	c, f := i.setup.oauth2, &i.flags
	var err error
	if c.certFile, err = i.fileOf(ctx, f.certFile, "Certificate of the application (PEM file)"); err != nil {
		return err
	}
	switch {
	case f.keyFile != "":
		c.keyFile, err = filepath.Abs(f.keyFile)
		return err
	case f.certFile != "":
		c.keyFile = c.certFile
	}
	for c.keyFile == "" {
		answer, err := i.askFor(ctx, "Its key (PEM file)", c.certFile)
		if err != nil {
			return err
		}
		c.keyFile = i.existing(answer)
	}
	return nil
}

// fileOf returns the whole path of the file that a flag names, or that an answer to the question does.
func (i *initRun) fileOf(ctx context.Context, flag, question string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	for {
		answer, err := i.ask(ctx, question+": ")
		if err != nil {
			return "", err
		}
		if path := i.existing(answer); path != "" {
			return path, nil
		}
	}
}

// existing returns the whole path of a file that somebody has named, or says that there is none.
func (i *initRun) existing(answer string) string {
	if answer == "" {
		return ""
	}
	path, err := filepath.Abs(answer)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		fmt.Fprintf(i.out, "%s\n", cleanText(err.Error()))
		return ""
	}
	return path
}
