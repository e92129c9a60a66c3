package metadatatest

import (
	"context"
	"fmt"
)

func startContainer(ctx context.Context, image string) (*server, error) {
	return nil, fmt.Errorf("container of %s: not yet", image)
}
