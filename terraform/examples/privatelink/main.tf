# The whole provider side of a PrivateLink set-up: a database is offered to other accounts through an endpoint service.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

module "hostname_targets" {
  source = "../.."

  name            = var.name
  code_path       = var.code_path
  database_arns   = var.database_arns
  alarm_topic_arn = var.alarm_topic_arn

  bindings = {
    database = {
      hostname          = var.hostname
      target_group_arn  = aws_lb_target_group.database.arn
      load_balancer_arn = aws_lb.database.arn
      # Nobody else registers targets in a target group that is made here.
      ownership = "exclusive"
    }
  }
}

resource "aws_lb" "database" {
  name               = var.name
  load_balancer_type = "network"
  internal           = true
  subnets            = var.subnet_ids
  # An NLB that was created without security groups can never get any.
  security_groups = [aws_security_group.load_balancer.id]
  # Their rules would see the consumers' addresses, which are of networks that are not yours.
  enforce_security_group_inbound_rules_on_private_link_traffic = "off"
  # The database is one address in one zone: without this, the other zones' nodes have no target.
  enable_cross_zone_load_balancing = true
}

resource "aws_lb_target_group" "database" {
  # Its name is unique in a Region: what replaces it, before it goes, needs another. A prefix has 6 characters at most.
  name_prefix = substr(var.name, 0, 6)
  target_type = "ip"
  protocol    = "TCP"
  port        = var.port
  vpc_id      = var.vpc_id

  # After a failover the connections that are left lead to the old writer.
  deregistration_delay   = 0
  connection_termination = true
  # A database takes the header for a broken handshake.
  proxy_protocol_v2 = false
  # It has no effect over PrivateLink, and must be off for targets outside the VPC.
  preserve_client_ip = false

  health_check {
    protocol            = "TCP"
    port                = "traffic-port"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  lifecycle {
    # The listener leads to the new one before the old one goes.
    create_before_destroy = true
    # The function keeps its state in tags, which Terraform would take away at each apply.
    ignore_changes = [tags, tags_all]
  }
}

resource "aws_lb_listener" "database" {
  load_balancer_arn = aws_lb.database.arn
  protocol          = "TCP"
  port              = var.port

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.database.arn
  }
}

resource "aws_security_group" "load_balancer" {
  name        = "${var.name}-load-balancer"
  description = "The load balancer ${var.name}"
  vpc_id      = var.vpc_id

  egress {
    description = "The database"
    protocol    = "tcp"
    from_port   = var.port
    to_port     = var.port
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  security_group_id            = var.database_security_group_id
  description                  = "The load balancer ${var.name}"
  referenced_security_group_id = aws_security_group.load_balancer.id
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
}

resource "aws_vpc_endpoint_service" "database" {
  network_load_balancer_arns = [aws_lb.database.arn]
  acceptance_required        = var.acceptance_required
  allowed_principals         = var.allowed_principals
  private_dns_name           = var.private_dns_name
  # What is listed is all: without its own Region the service would lose the consumers there. An empty list is refused.
  supported_regions = length(var.supported_regions) == 0 ? null : concat([data.aws_region.current.region], var.supported_regions)

  # AWS refuses to delete it while endpoints are connected. What their connections need is deleted after it.
  depends_on = [aws_lb_listener.database, aws_vpc_security_group_ingress_rule.database, module.hostname_targets]
}

data "aws_region" "current" {}

resource "aws_vpc_endpoint_connection_notification" "database" {
  count = var.alarm_topic_arn == "" ? 0 : 1

  vpc_endpoint_service_id     = aws_vpc_endpoint_service.database.id
  connection_notification_arn = var.alarm_topic_arn
  connection_events           = ["Accept", "Connect", "Delete", "Reject"]
}

resource "aws_cloudwatch_metric_alarm" "port_allocation" {
  alarm_name          = "${var.name}-port-allocation"
  alarm_description   = "page: in 3 of the last 5 minutes the load balancer ${var.name} refused connections for want of ports. docs/operations.md#port-allocation-errors"
  namespace           = "AWS/NetworkELB"
  metric_name         = "PortAllocationErrorCount"
  dimensions          = { LoadBalancer = aws_lb.database.arn_suffix }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]
  ok_actions          = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]
}
